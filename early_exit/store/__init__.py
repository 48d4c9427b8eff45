"""The store of heads.

:mod:`head_store` keeps versions, attempts, pins and which version is the latest; :mod:`version_files` are the files of
one, :mod:`signing` signs them and checks, :mod:`blobs` writes and reads whole files on a disk or in an object store.
"""
