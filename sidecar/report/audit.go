package report

import (
	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
)

// Audit is what waits to be handed over.
type Audit interface {
	// Next is the next batches, of about so many bytes at most; sequence is 0 when nothing waits.
	Next(most int) (sequence int64, batches [][]byte, err error)
	// Acknowledged notes that all up to sequence is kept elsewhere.
	Acknowledged(sequence int64) error
}

// maxAudit is how many bytes of audit events are sent at once.
const maxAudit = 1 << 20

// sendAudit hands over what comes next, once what came before is acknowledged.
func (r *Reporter) sendAudit(stream api.MemberService_ReportClient) error {
	if r.Audit == nil || !r.welcomed || r.handed > 0 {
		return nil
	}
	sequence, batches, err := r.Audit.Next(maxAudit)
	if err != nil || sequence == 0 {
		return err
	}
	r.handed = sequence
	return stream.Send(&api.MemberReport{Report: &api.MemberReport_Audit{Audit: &api.AuditBatch{Sequence: sequence, Batches: batches}}})
}

// auditAcked notes what the control plane has, and goes on.
func (r *Reporter) auditAcked(stream api.MemberService_ReportClient, sequence int64) error {
	if r.Audit == nil || sequence != r.handed || sequence == 0 {
		return nil
	}
	r.handed = 0
	if err := r.Audit.Acknowledged(sequence); err != nil {
		return err
	}
	return r.sendAudit(stream)
}
