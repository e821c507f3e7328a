"""The REST side of `iam`, in the paths and field names of the seed documents. A file's `routes()` is its contents."""
