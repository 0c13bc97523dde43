"""The program that `unit_tests.py` runs in a box: an answer, then its tests; one line on standard output for each pass.

It reads {"token", "code", "tests"} from standard input. What answer and tests print is thrown away.
"""

import json
import os
import sys


def main() -> None:
    """Run the answer, then every test in the answer's namespace."""
    order = json.load(sys.stdin)
    token, tests = order["token"], order["tests"]
    report = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    space = {"__name__": "answer"}
    try:
        exec(compile(order["code"], "answer.py", "exec"), space)
    except BaseException:  # an answer that fails, or exits, passes nothing
        return
    for number, test in enumerate(tests):
        try:
            exec(compile(test, f"test_{number}", "exec"), space)
        except BaseException:  # likewise a test
            continue
        os.write(report, f"{token} {number}\n".encode())


if __name__ == "__main__":
    main()
