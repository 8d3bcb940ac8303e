"""The same as webUI.py, by the name that so-vits-svc's notebook starts; reads, writes and example: see there."""

from webUI import main, run

if __name__ == "__main__":
    run(main)
