"""Where downloaded pictures, checkpoints and logs lie: outside the repository."""

import os
from pathlib import Path

WORK = Path(os.environ.get("TINY_EDITOR_WORK", "/var/tmp/comfyd-training"))
DATA = WORK / "data"
RUNS = WORK / "runs"
PACKAGE = Path(__file__).parent
MODELS = PACKAGE.parent.parent
