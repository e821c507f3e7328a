"""What administrators, people and machines do with `iam`: each file a subject, each method one transaction."""
