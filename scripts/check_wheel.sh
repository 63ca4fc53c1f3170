#!/usr/bin/env bash
# Build the wheel, install it outside of the checkout into a fresh environment, and use it there as a newcomer would.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python3 -m venv "$scratch/venv"
pip=("$scratch/venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install pip==26.1
"${pip[@]}" wheel --no-deps --wheel-dir "$scratch" "$checkout"
"${pip[@]}" install -c "$checkout/constraints.txt" "$scratch"/ibidem-*.whl

mkdir "$scratch/away" && cd "$scratch/away"
ibidem="$scratch/venv/bin/ibidem"
export OMP_NUM_THREADS=1
"$ibidem" --version
"$ibidem" demo --help > /dev/null
"$ibidem" doctor
for name in model/tiny.py evaluation/gate.yaml; do
    "$scratch/venv/bin/python" -c "from ibidem.config import shipped; assert shipped('$name').is_relative_to('$scratch')"
done

mkdir code
for number in $(seq 200); do
    printf 'def f_%s(x):\n    """Add %s."""\n    return x + %s\n' "$number" "$number" "$number" > "code/f_$number.py"
done
cat > model.json <<'JSON'
{"vocab_size": 512, "width": 32, "layers": 2, "heads": 2, "ffn_hidden": 64, "context": 64}
JSON
quietly() { "$ibidem" "$@" 2> log || { cat log; return 1; }; }
quietly preprocess --dataset code:train:text --output-dir data --dedup.near false
quietly train-tokenizer --input data --vocab-size 512 --output-dir tokenizer
quietly train --model model.json --data.dataset data --data.tokenizer tokenizer --data.held-out-share 0.1 \
    --output-dir run --training.steps 3 --training.batch-sequences 2
quietly generate --checkpoint run/checkpoints/step-000003 --prompt "def f" --max-tokens 8
quietly verify run/checkpoints/step-000003
