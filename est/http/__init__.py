"""EST over HTTP, and the enrolment profiles over REST."""
