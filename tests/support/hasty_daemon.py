"""`fairqued` whose dead workers are always replaced at once, and whose scheduler never rests."""

from fairqued.daemon import crew, main
from fairqued.scheduler import scheduler

if __name__ == "__main__":
    crew._PROVEN_AFTER_SECONDS = 0.0
    scheduler._TICK_SECONDS = scheduler._PROMOTE_SECONDS = 0.001
    main.main()
