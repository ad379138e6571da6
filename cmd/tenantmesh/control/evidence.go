package control

import (
	"context"
	"crypto/x509"
	"path/filepath"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds"
)

// evidence is the audit trail of decisions, and what vouches for it.
type evidence struct {
	archive *trail.Archive
	roots   *trail.Roots
	source  *svid.Source
}

func openEvidence(config Config, source *svid.Source) (*evidence, error) {
	dir := filepath.Join(config.DataDir, "ledger", "audit")
	archive, err := trail.OpenArchive(dir, config.AuditKeep)
	if err != nil {
		return nil, err
	}
	roots, err := trail.OpenRoots(dir)
	e := &evidence{archive: archive, roots: roots, source: source}
	if err == nil {
		_, err = e.vouching()
	}
	return e, err
}

// vouching are the roots that vouch for members now, and those that did.
func (e *evidence) vouching() (*x509.CertPool, error) {
	bundle, err := e.source.Bundle()
	if err != nil {
		return nil, err
	}
	if err := e.roots.Add(bundle.X509Authorities()...); err != nil {
		return nil, err
	}
	return e.roots.Pool(), nil
}

func (e *evidence) audit() xds.Audit { return xds.Audit{Archive: e.archive, Roots: e.vouching} }

// breakGlass is how many grants are in force that nobody but who asked has approved; 0 while the store does not answer.
func breakGlass(ctx context.Context, store tenantstore.Store) (n float64) {
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	snapshot, err := store.Snapshot(ctx)
	if err != nil {
		return 0
	}
	for _, o := range snapshot.Objects {
		if tenantstore.BreakGlass(o, time.Now()) {
			n++
		}
	}
	return n
}
