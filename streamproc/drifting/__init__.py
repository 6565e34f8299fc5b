"""Whether a stream has changed: tests that may be looked at after every row, with a stated rate of false alarms."""
