"""The plain model and its driver on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
