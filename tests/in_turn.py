"""Commands one after the other in a process of their own, in the folder that it was started in: ``python in_turn.py
COMMAND ...`` prints what each said, as JSON, one a line; a traceback is on its standard error.

Where too little was timed, what the message says is done: the profile goes on where it was, so that a page's commands
take as long as the machine needs, and no longer.
"""

import json
import shlex
import sys
import traceback

from command import Done, run_here

MOST = 40
"""Times that a profile goes on: enough on a machine a hundred times as slow as a quiet one."""


def ran(command):
    try:
        return run_here(*shlex.split(command))
    except Exception:
        return Done(1, "", traceback.format_exc())


def main():
    profile = None
    for command in sys.argv[1:]:
        profile = command if command.startswith("calibrate profile") else profile
        done, turn = ran(command), 0
        while "run calibrate profile" in done.stderr and turn < MOST:
            ran(profile)
            done, turn = ran(command), turn + 1
        print(json.dumps(done._asdict()), flush=True)


if __name__ == "__main__":
    main()
