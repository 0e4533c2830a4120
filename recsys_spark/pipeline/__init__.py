"""What a step is: its configuration, its context, the order of steps, what they build on."""
