"""Lists of addresses -> shards: `diptych data fetch`."""
