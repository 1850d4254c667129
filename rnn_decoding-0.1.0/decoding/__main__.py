"""`python -m decoding`."""

import sys

from decoding.cli.main import main

sys.exit(main())
