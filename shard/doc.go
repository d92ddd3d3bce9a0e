// Package shard decides who holds what: the layout rules of a model family
// and the planner that turns an Index, a Layout and a scheme into a Plan. It
// is pure: the same input gives the same bytes of plan on every machine.
// internal/job drives a plan, loader carries it out.
//
// Build makes a plan step by step: what each tensor becomes (policy.go), by
// which rule it is cut (families.go, tpplan.go for what the checkpoint says,
// module_rules.go for what the user does) and where (cut.go, experts.go; what
// does not divide is refused in divides.go), which stage holds it (stages.go),
// where it lies (arenas.go) and in which chunks it comes (chunks.go). JoinRows
// is the way back, from the ranks' arenas to whole tensors.
package shard
