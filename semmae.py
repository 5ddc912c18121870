"""The command `semmae`. This folder comes first: PYTHONPATH may have other packages of the names that our rooms have."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pipeline.cli import main

if __name__ == "__main__":
    main()
