package shard

// IsOfExpert says whether a tensor is of one expert.
func IsOfExpert(tensor string) bool { return parseName(tensor).expert >= 0 }
