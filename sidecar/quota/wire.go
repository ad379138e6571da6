package quota

import (
	"maps"
	"strconv"

	quota "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/policy/limit/share"
)

func usage(id map[string]string) *quota.RateLimitQuotaUsageReports_BucketQuotaUsage {
	return &quota.RateLimitQuotaUsageReports_BucketQuotaUsage{BucketId: &quota.BucketId{Bucket: id}}
}

// reportWriter writes what the control plane's allocator reads.
type reportWriter struct {
	report *quota.RateLimitQuotaUsageReports
	empty  bool
	pools  int
}

func newReport(number, response uint64, lends, lendsOpen bool) *reportWriter {
	head := map[string]string{meshname.QuotaReport: text(number), meshname.QuotaResponse: text(response)}
	switch {
	case lends && lendsOpen:
		head[meshname.QuotaLends] = "all"
	case lends:
		head[meshname.QuotaLends] = "rate"
	}
	w := &reportWriter{report: &quota.RateLimitQuotaUsageReports{Domain: meshname.QuotaDomain}, empty: true}
	w.add(head)
	return w
}

func text(n uint64) string { return strconv.FormatUint(n, 10) }

func (w *reportWriter) add(id map[string]string) *quota.RateLimitQuotaUsageReports_BucketQuotaUsage {
	u := usage(id)
	w.report.BucketQuotaUsages = append(w.report.BucketQuotaUsages, u)
	return u
}

func (w *reportWriter) place(group string, part, standing share.Part) {
	w.empty = false
	id := map[string]string{
		meshname.QuotaGroup: group, meshname.QuotaRank: strconv.Itoa(part.Rank), meshname.QuotaOf: strconv.Itoa(part.Of), meshname.QuotaDigest: part.Digest,
		meshname.QuotaCounted: strconv.FormatBool(part.Counted),
	}
	w.add(id)
	id = maps.Clone(id)
	id[meshname.QuotaKind], id[meshname.QuotaRank], id[meshname.QuotaOf] = meshname.QuotaStanding, strconv.Itoa(standing.Rank), strconv.Itoa(standing.Of)
	id[meshname.QuotaDigest], id[meshname.QuotaCounted] = standing.Digest, strconv.FormatBool(standing.Counted)
	w.add(id)
}

func (w *reportWriter) use(u share.Usage) {
	w.empty = false
	w.pools++
	id := map[string]string{
		meshname.QuotaGroup: u.Pool.Group, meshname.QuotaTenant: u.Pool.Tenant, meshname.QuotaUID: u.Pool.UID, meshname.QuotaClass: u.Pool.Class, meshname.QuotaGrant: text(u.Grant),
	}
	rate := w.add(id)
	rate.TimeElapsed, rate.NumRequestsAllowed = durationpb.New(u.Elapsed), u.Wanted
	id = maps.Clone(id)
	id[meshname.QuotaKind] = meshname.QuotaOpen
	open := w.add(id)
	open.TimeElapsed, open.NumRequestsAllowed, open.NumRequestsDenied = durationpb.New(u.Elapsed), u.Open, u.Waiting
}

// response is what an allocator says.
type response struct {
	number, report uint64
	grants         []share.Grant
	standing       map[string]share.Part
}

func readResponse(message *quota.RateLimitQuotaResponse) response {
	r := response{standing: map[string]share.Part{}}
	index := map[share.Pool]int{}
	for _, action := range message.GetBucketAction() {
		id := action.GetBucketId().GetBucket()
		bucket := action.GetQuotaAssignmentAction().GetRateLimitStrategy().GetTokenBucket()
		switch {
		case id[meshname.QuotaAllocator] != "":
			r.number, r.report = number(id[meshname.QuotaResponse]), number(id[meshname.QuotaReport])
		case id[meshname.QuotaUID] != "":
			pool := share.Pool{Group: id[meshname.QuotaGroup], Tenant: id[meshname.QuotaTenant], UID: id[meshname.QuotaUID], Class: id[meshname.QuotaClass]}
			i, ok := index[pool]
			if grant := number(id[meshname.QuotaGrant]); !ok || r.grants[i].Number != grant { // of one pool the last is in force
				i = len(r.grants)
				index[pool] = i
				r.grants = append(r.grants, share.Grant{Pool: pool, Number: grant})
			}
			if id[meshname.QuotaKind] == meshname.QuotaOpen {
				r.grants[i].Amount.Concurrency = int64(bucket.GetMaxTokens())
			} else {
				r.grants[i].Amount.Rate, r.grants[i].Amount.Burst = int64(bucket.GetTokensPerFill().GetValue()), int64(bucket.GetMaxTokens())
			}
		default:
			r.standing[id[meshname.QuotaGroup]] = share.Part{
				Rank: int(number(id[meshname.QuotaRank])), Of: int(number(id[meshname.QuotaOf])), Digest: id[meshname.QuotaDigest], Counted: id[meshname.QuotaCounted] == "true",
			}
		}
	}
	return r
}

func number(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64) // what is no number is none
	return n
}
