# Sets `python`: $PYTHON, or that of .venv, or the one on the path. Sourced in the project's folder.
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
