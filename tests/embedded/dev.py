"""`perennial dev` with a stand-in for the API and the workers; the options are those of the real command."""

import argparse
import sys
from pathlib import Path

from runtime.embedded.ports import StackOptions
from runtime.embedded.supervisor import run_stack
from runtime.settings import load_settings

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--api-port", type=int, default=8080)
    parser.add_argument("--temporal-port", type=int, default=7233)
    parser.add_argument("--ui-port", type=int, default=8233)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tls", action="store_true")
    program = (sys.executable, str(Path(__file__).with_name("program.py")))
    sys.exit(run_stack(StackOptions(**vars(parser.parse_args())), load_settings(), program=program))
