"""What scores the ops: one file a framework, each giving back a sensitivity report."""
