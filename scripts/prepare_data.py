r"""Tokenise any data source once, for runs that read it many times: `data.source=prepared data.path=STORE`.

    python scripts/prepare_data.py STORE [FILE.yaml ...] [key=value ...]     settings as for train.py
    python scripts/prepare_data.py --verify STORE                            read everything, compare SHA-256

    python scripts/prepare_data.py c4_small data=c4 \
        data.path='https://HOST/c4/en/c4-train.{00000..00015}-of-01024.json.gz' \
        data.eval_path='https://HOST/c4/en/c4-validation.00000-of-00008.json.gz'

Only the settings that say which text is read and how it is tokenised matter (`data.preparation.SETTINGS`): order,
packing and row length are chosen when the store is read, and the rows are those that the source itself would give.
"""

import logging
import sys

from configs.schema import SettingsError, load
from configs.user_paths import expanded
from data.preparation import prepare
from data.prepared import read_manifest, verify
from data.tokenizer import load_tokenizer

USAGE = "usage: prepare_data.py STORE [FILE.yaml ...] [key=value ...], or prepare_data.py --verify STORE"


def main(arguments: list[str]) -> int:
    """Prepare or verify a store; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(__doc__)
        return 0
    try:
        if len(arguments) == 2 and arguments[0] == "--verify":
            verify(arguments[1])
            print(f"{arguments[1]}: every file is as it was written")
            return 0
        if not arguments or arguments[0].startswith("-") or "=" in arguments[0]:
            raise SettingsError(USAGE)
        invocation = load(arguments[1:])
        if invocation.plan is not None:
            raise SettingsError("--plan is an option of train.py: a preparation has none")
        section = invocation.config.data
        if section.source == "prepared":
            raise SettingsError(
                "data.source=prepared reads a store, this script makes one; name the source of the text"
            )
        prepare(expanded(arguments[0]), section, load_tokenizer(section))
        splits = read_manifest(arguments[0])["splits"]
    except ValueError as error:  # settings and data
        print(error, file=sys.stderr)
        return 2
    except OSError as error:  # disk and network
        print(error, file=sys.stderr)
        return 1
    print(", ".join(f"{split}: {entry['tokens']} tokens" for split, entry in splits.items()), "in", arguments[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
