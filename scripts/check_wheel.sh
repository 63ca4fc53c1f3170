#!/usr/bin/env bash
# Build the wheel, install it outside of the checkout into a fresh environment, and use it there as a newcomer would:
# the README's commands on one's own code, as a user who is not root.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"

# Another user than root, if there is a Python that one may run.
python=${PYTHON:-python3}
as=()
if [ "$(id -u)" = 0 ]; then
    for each in "$python" /usr/bin/python3; do
        if setpriv --reuid=65534 --regid=65534 --clear-groups "$each" -c "import venv" 2> /dev/null; then
            python=$each as=(setpriv --reuid=65534 --regid=65534 --clear-groups)
            break
        fi
    done
    [ ${#as[@]} -gt 0 ] || echo "no Python for another user than root: checked as root"
fi

"$python" -m venv "$scratch/venv"
pip=("$scratch/venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install pip==26.1
"${pip[@]}" wheel --no-deps --wheel-dir "$scratch" "$checkout"
"${pip[@]}" install -c "$checkout/constraints.txt" "$scratch"/ibidem-*.whl

mkdir "$scratch/away" && cd "$scratch/away"
library=$("$scratch/venv/bin/python" -c "import os; print(os.path.dirname(os.__file__))")
mkdir my-code
cp -r "$library"/{asyncio,email,json,unittest,importlib,http,xml,logging,multiprocessing,concurrent} my-code/
awk '/^Your own code/ { own = 1 } own && /^```$/ { exit } own && code { print } own && /^```bash/ { code = 1 }' \
    "$checkout/README.md" | sed "s/--training.steps 100/--training.steps 10/" > commands.sh
grep -q "ibidem train --model tiny" commands.sh
cat > check.sh <<'SH'
set -euo pipefail
export PATH="$1/venv/bin:$PATH" HOME="$1/away" XDG_STATE_HOME="$1/away/state" OMP_NUM_THREADS=1
echo "user $(id -u)"
for name in model/tiny.py evaluation/gate.yaml; do
    python -c "from ibidem.config import shipped; assert shipped('$name').is_relative_to('$1')"
done
ibidem demo --help > /dev/null
source commands.sh
test -s own/report.html
ibidem verify own/run/checkpoints/step-000010 --quiet > /dev/null
ibidem init configs > /dev/null
ibidem plan --config configs/training/base.yaml > /dev/null
SH
[ ${#as[@]} -eq 0 ] || chown -R 65534:65534 "$scratch/away"
"${as[@]}" bash check.sh "$scratch" > log 2>&1 || { cat log; exit 1; }
grep -e "^user" -e "documents kept" log
