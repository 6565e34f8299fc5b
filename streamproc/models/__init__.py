"""Models as bytes: what may be kept, how it becomes bytes, and what is asked of bytes before they are believed."""
