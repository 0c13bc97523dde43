"""Program run in the sandbox: an answer, then its tests, with one output line for each pass.

It reads {"token", "code", "tests"} from standard input. Output of answer and tests is discarded.
"""

import json
import os
import sys


def main() -> None:
    """Run the answer, then each test in its namespace."""
    job = json.load(sys.stdin)
    token, tests = job["token"], job["tests"]
    report = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    space = {"__name__": "answer"}
    try:
        exec(compile(job["code"], "answer.py", "exec"), space)
    except BaseException:  # an answer that fails or exits passes no test
        return
    for number, test in enumerate(tests):
        try:
            exec(compile(test, f"test_{number}", "exec"), space)
        except BaseException:
            continue
        os.write(report, f"{token} {number}\n".encode())


if __name__ == "__main__":
    main()
