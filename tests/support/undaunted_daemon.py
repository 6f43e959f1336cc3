"""`fairqued` whose dead workers are always replaced at once, however often they die."""

from fairqued.daemon import crew, main

if __name__ == "__main__":
    crew._PROVEN_AFTER_SECONDS = 0.0
    main.main()
