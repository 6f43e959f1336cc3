"""`fairqued` whose workers have little patience with tasks that do not obey."""

from functools import partial

from fairqued.daemon import child, main
from fairqued.worker import WorkerSettings

if __name__ == "__main__":
    vars(child).update(WorkerSettings=partial(WorkerSettings, hard_grace_seconds=0.3))
    main.main()
