"""Facts about a graph that only running it can show: its layouts, whether stepping is right, whether padding changes anything."""
