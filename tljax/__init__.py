"""Transfer learning in JAX. The map, lowest floor first; imports go down only.

1. `method` (read it first), `sweep`, `sharpness`, `losses`, `optimizers`, `measures`,
   `processes`, `sharding`, `models`, `errors`, `discovery`
2. `weights`, `data`, `checkpoint`, `run`, `report`, `plots`, `progress`,
   `watch`
3. `train`: the only loop; `inference`: a network over a whole set
4. `extraction`, `finetuning`, `adaptation`: methods, one file each
"""
