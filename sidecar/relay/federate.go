package relay

import (
	"slices"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tenantmesh/tenantmesh/identity"
)

// federate has Envoy verify the peers of each trust domain by that domain's bundle alone, where some are of another than the
// own: one authority may not sign for another's domain. Who is of a domain whose bundle is not there is not let in.
func (r *Relay) federate(context *tls.CertificateValidationContext, own string, peers []string) error {
	var domains []string
	for _, peer := range peers {
		if id, err := identity.ParsePrincipal(peer); err == nil && id.TrustDomain() != own && peer != nobody {
			domains = append(domains, id.TrustDomain())
		}
	}
	if len(domains) == 0 {
		return nil
	}
	slices.Sort(domains)
	validator := &tls.SPIFFECertValidatorConfig{TrustDomains: []*tls.SPIFFECertValidatorConfig_TrustDomain{{Name: own, TrustBundle: context.TrustedCa}}}
	for _, domain := range slices.Compact(domains) {
		bundle, err := r.Source.BundleOf(domain)
		if err != nil || len(bundle.X509Authorities()) == 0 {
			continue
		}
		validator.TrustDomains = append(validator.TrustDomains, &tls.SPIFFECertValidatorConfig_TrustDomain{Name: domain, TrustBundle: inline(pemOf(bundle.X509Authorities()))})
	}
	packed, err := anypb.New(validator)
	if err != nil {
		return err
	}
	context.TrustedCa = nil
	context.CustomValidatorConfig = &core.TypedExtensionConfig{Name: "envoy.tls.cert_validator.spiffe", TypedConfig: packed}
	return nil
}
