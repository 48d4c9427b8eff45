"""The command line: ``layercache demo | worker | trainer | publish | watch | topics | cuts | heads | settings``."""
