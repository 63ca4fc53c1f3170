// A login link ends in #TOKEN, which browsers send to no server. It is removed from the address, then posted.
const form = document.getElementById("login");
const token = location.hash.slice(1);

if (token) {
  history.replaceState(null, "", location.pathname);
  form.elements.token.value = token;
  form.requestSubmit();
}
