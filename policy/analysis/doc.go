// Package analysis answers WHO CAN, WHAT CHANGES and DOES IT ALWAYS HOLD: it computes with the sets of requests that access
// policies allow, where policy/authz judges one request at a time. Its answers are for all requests, those of principals,
// tenants and paths that nobody has thought of included.
//
// # How
//
// A set of requests is a union of boxes, and a box is a product: principals x tenants x workloads x methods x paths x times
// x conditions. What is in one dimension is a set of sequences of words (a path's segments, say), kept as the smallest
// automaton that tells "this word" from "any other word". The language has no wildcard in the middle but the one of one
// segment, so these automata have no loops but the one of a trailing **, and intersection, union and difference are exact. Equal
// sets of one analysis are one pointer.
//
// A tenant whose object is known is what its object says (tier, labels), and a word of its own; one that is not may have any
// tier and labels. "No tenant" is one of the known.
//
// # What it does not claim
//
// Conditions in CEL are not looked into. Each is a dimension with the values true, false and error, the same one wherever
// its text is the same, and the tenant is (two meshes may say different things of one). So what does not depend on a
// condition is certain, equal policies are equivalent whatever their conditions say, and the rest is marked with the
// condition that it depends on. A rollout's canary is a condition, too. The policies are fresh (authz.Request.Lapsed is
// false), and shadows decide nothing.
//
// # Concurrency
//
// What is exported is a function of its arguments, and may be called from many goroutines. The package has no clock.
//
// It imports identity, policy and policy/authz.
package analysis
