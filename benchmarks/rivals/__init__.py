"""streamproc beside other stream processors: one topic, one broker, one machine, one run."""
