"""The usage report of a job: added up, shown in every form, and summed up for programs."""
