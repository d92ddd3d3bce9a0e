// Package shard decides who holds what: the layout rules of a model family
// and the planner that turns an Index, a Layout and a scheme into a Plan. It
// is pure: the same input gives the same bytes of plan on every machine.
// internal/job drives a plan, loader carries it out.
package shard
