"""Where numbers are computed: devices, memory, signals, and the processes of one run."""
