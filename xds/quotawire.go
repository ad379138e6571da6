package xds

import (
	"errors"
	"fmt"
	"strconv"

	quota "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy/limit/share"
)

// maxUsages bounds one report.
const maxUsages = 20000

// readReport reads what sidecar/quota writes.
func readReport(report *quota.RateLimitQuotaUsageReports) (r share.Report, reportNumber uint64, err error) {
	usages := report.GetBucketQuotaUsages()
	if len(usages) == 0 || len(usages) > maxUsages {
		return r, 0, fmt.Errorf("a report must have from 1 to %d buckets (got %d)", maxUsages, len(usages))
	}
	head := usages[0].GetBucketId().GetBucket()
	if reportNumber = number(head[meshname.QuotaReport]); reportNumber == 0 {
		return r, 0, errors.New("the first bucket of a report must have its number")
	}
	r.Answers = number(head[meshname.QuotaResponse])
	r.Lends, r.LendsOpen = head[meshname.QuotaLends] != "", head[meshname.QuotaLends] == "all"
	index := map[share.Pool]int{}
	for _, u := range usages[1:] {
		id := u.GetBucketId().GetBucket()
		group := id[meshname.QuotaGroup]
		if id[meshname.QuotaUID] == "" {
			if r.Parts == nil {
				r.Parts, r.Standing = map[string]share.Part{}, map[string]share.Part{}
			}
			part := share.Part{
				Rank: int(number(id[meshname.QuotaRank])), Of: int(number(id[meshname.QuotaOf])), Digest: id[meshname.QuotaDigest], Counted: id[meshname.QuotaCounted] == "true",
			}
			if id[meshname.QuotaKind] == meshname.QuotaStanding {
				r.Standing[group] = part
			} else {
				r.Parts[group] = part
			}
			continue
		}
		pool := share.Pool{Group: group, Tenant: id[meshname.QuotaTenant], UID: id[meshname.QuotaUID], Class: id[meshname.QuotaClass]}
		i, ok := index[pool]
		if !ok {
			i = len(r.Usages)
			index[pool] = i
			r.Usages = append(r.Usages, share.Usage{Pool: pool, Grant: number(id[meshname.QuotaGrant]), Elapsed: u.TimeElapsed.AsDuration()})
		}
		usage := &r.Usages[i]
		if id[meshname.QuotaKind] == meshname.QuotaOpen {
			usage.Open, usage.Waiting = u.NumRequestsAllowed, u.NumRequestsDenied
		} else {
			usage.Wanted = u.NumRequestsAllowed + min(u.NumRequestsDenied, ^uint64(0)-u.NumRequestsAllowed)
		}
	}
	return r, reportNumber, nil
}

// writeResponse writes what sidecar/quota reads.
func writeResponse(allocator string, report, response uint64, grants []share.Grant, standing map[string]share.Part) *quota.RateLimitQuotaResponse {
	r := &quota.RateLimitQuotaResponse{}
	// What is taken away comes before what makes the session last.
	for _, g := range grants {
		id := map[string]string{
			meshname.QuotaGroup: g.Pool.Group, meshname.QuotaTenant: g.Pool.Tenant, meshname.QuotaUID: g.Pool.UID, meshname.QuotaClass: g.Pool.Class,
			meshname.QuotaGrant: strconv.FormatUint(g.Number, 10),
		}
		open := map[string]string{meshname.QuotaKind: meshname.QuotaOpen}
		for key, value := range id {
			open[key] = value
		}
		r.BucketAction = append(r.BucketAction,
			assignment(id, &typev3.TokenBucket{MaxTokens: uint32(g.Amount.Burst), TokensPerFill: wrapperspb.UInt32(uint32(g.Amount.Rate)), FillInterval: durationpb.New(meshname.QuotaRateUnit)}),
			assignment(open, &typev3.TokenBucket{MaxTokens: uint32(g.Amount.Concurrency)}))
	}
	for group, part := range standing {
		r.BucketAction = append(r.BucketAction, assignment(map[string]string{
			meshname.QuotaGroup: group, meshname.QuotaRank: strconv.Itoa(part.Rank), meshname.QuotaOf: strconv.Itoa(part.Of), meshname.QuotaDigest: part.Digest,
			meshname.QuotaCounted: strconv.FormatBool(part.Counted),
		}, nil))
	}
	r.BucketAction = append(r.BucketAction, assignment(map[string]string{
		meshname.QuotaAllocator: allocator, meshname.QuotaReport: strconv.FormatUint(report, 10), meshname.QuotaResponse: strconv.FormatUint(response, 10),
	}, nil))
	return r
}

func assignment(id map[string]string, bucket *typev3.TokenBucket) *quota.RateLimitQuotaResponse_BucketAction {
	action := &quota.RateLimitQuotaResponse_BucketAction_QuotaAssignmentAction{AssignmentTimeToLive: durationpb.New(share.Lease)}
	if bucket != nil {
		action.RateLimitStrategy = &typev3.RateLimitStrategy{Strategy: &typev3.RateLimitStrategy_TokenBucket{TokenBucket: bucket}}
	}
	return &quota.RateLimitQuotaResponse_BucketAction{
		BucketId:     &quota.BucketId{Bucket: id},
		BucketAction: &quota.RateLimitQuotaResponse_BucketAction_QuotaAssignmentAction_{QuotaAssignmentAction: action},
	}
}
