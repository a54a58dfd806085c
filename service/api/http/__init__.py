"""Protocol rules without state, most of them of one RFC each."""
