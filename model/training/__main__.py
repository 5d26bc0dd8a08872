"""Run the training: `python -m model.training`."""

from model.training.run import main

raise SystemExit(main())
