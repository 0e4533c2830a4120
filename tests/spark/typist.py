"""One process that `Shell` (typed.py) types many commands into: each goes through the entry of the
command line, Spark starts once.

python -m tests.spark.typist    (on standard input, a line of JSON for each command: its arguments,
and the file that gets what it says; on standard output, its exit code)
"""

from __future__ import annotations

import json
import os
import sys

from recsys_spark import cli


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    for line in sys.stdin:
        order = json.loads(line)
        # The descriptors themselves: what Spark and the ranks say goes to the file too
        with open(order["says"], "wb") as says:
            os.dup2(says.fileno(), 1)
            os.dup2(says.fileno(), 2)
        print(_typed(order["arguments"]), file=answers, flush=True)


def _typed(arguments: list[str]) -> int:
    """The exit code that a shell would see. A fault of ours ends this process, its traceback in the
    file.
    """
    sys.argv = arguments
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main()
