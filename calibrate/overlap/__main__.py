"""``python -m calibrate.overlap``."""

from calibrate.overlap.experiment import main

if __name__ == "__main__":
    main()
