"""What `aobatch bench` measures: whole jobs, files, and the parts of a job alone."""
