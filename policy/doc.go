// Package policy answers MAY THEY and HOW MUCH: the kinds Tier, AccessPolicy and AccessGrant, the closed
// list of reasons, and a decision's shape. The judging itself is in policy/authz and policy/limit.
//
// It is pure: it imports identity and the standard library, and no grpc, protobuf, net or clock.
package policy
