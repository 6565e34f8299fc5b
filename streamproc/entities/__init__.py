"""Who is who: records of several sources brought together as entities while they come."""
