# Makes the virtual environment .venv, or uses the one that is there. Other scripts read this file in the project's
# folder:
#     . scripts/environment.sh requirements.txt
# A .venv that is complete for the same requirements is used as it is; an interrupted installation is continued.

requirements=$1
python=
for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Python 3.11 or newer is needed; python3 is $(python3 -V 2>/dev/null || echo missing)" >&2
    exit 1
fi
wanted=$(cat pyproject.toml requirements.txt "$requirements" | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
if [ "$(cat ".venv/$requirements.done" 2>/dev/null || true)" != "$wanted" ]; then
    echo "installing $requirements into .venv (once)" >&2
    if [ ! -x .venv/bin/pip ] && ! "$python" -m venv --clear .venv; then
        echo "$python cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)" >&2
        exit 1
    fi
    if ! .venv/bin/pip install -q --disable-pip-version-check -r "$requirements" ||
        ! .venv/bin/pip install -q --disable-pip-version-check --no-deps -e .; then
        echo "the installation of $requirements failed; the same command tries again" >&2
        exit 1
    fi
    echo "$wanted" > ".venv/$requirements.done"
fi
