// A login link ends in #TOKEN, which browsers send to no server. It is removed from the address, then posted.
const form = document.getElementById("login");

function enter() {
  const token = location.hash.slice(1);
  if (!token) return;
  history.replaceState(null, "", location.pathname);
  form.elements.token.value = token;
  form.requestSubmit();
}

addEventListener("hashchange", enter); // the link was opened on this very page
enter();
