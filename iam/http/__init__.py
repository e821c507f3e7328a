"""The REST side of `iam`, in the paths and field names of the coldwave backend. A file's `routes()` is its contents."""
