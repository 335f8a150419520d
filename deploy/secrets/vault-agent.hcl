# Vault Agent, where Vault holds the secrets: writes the files that deploy/secrets/make would make, under the same names, and has the
# roles restarted when one changes. Vault's transit engine or a cloud's KMS seals Vault itself; the roles see files only.
#   vault agent -config=/etc/modelfaucet/vault-agent.hcl
auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "/etc/modelfaucet/vault/role_id"
      secret_id_file_path = "/etc/modelfaucet/vault/secret_id"
    }
  }
}

template_config {
  exit_on_retry_failure = true
}

# One per secret. The directory has mode 0700 and belongs to root: service managers hand the files on (LoadCredential=).
template {
  contents    = "{{ with secret \"secret/data/modelfaucet\" }}{{ .Data.data.admin_token }}{{ end }}"
  destination = "/etc/modelfaucet/secrets/admin_token"
  perms       = "0400"
  exec { command = ["systemctl", "try-restart", "modelfaucet-command@8081", "modelfaucet-command@8082", "modelfaucet-query"] }
}

template {
  contents    = "{{ with secret \"secret/data/modelfaucet\" }}{{ .Data.data.user_id_hmac_key }}{{ end }}"
  destination = "/etc/modelfaucet/secrets/user_id_hmac_key"
  perms       = "0400"
}

template {
  contents    = "{{ with secret \"secret/data/modelfaucet\" }}{{ .Data.data.litellm_master_key }}{{ end }}"
  destination = "/etc/modelfaucet/secrets/litellm_master_key"
  perms       = "0400"
  exec { command = ["systemctl", "try-restart", "modelfaucet-gateway@8085", "modelfaucet-gateway@8086"] }
}

# Static roles of Vault's database engine: Vault changes the password in PostgreSQL and here.
template {
  contents    = "{{ with secret \"database/static-creds/ledger_command\" }}postgres://ledger_command:{{ .Data.password }}@postgres.internal:5432/modelfaucet{{ end }}"
  destination = "/etc/modelfaucet/secrets/database_url_command"
  perms       = "0400"
  exec { command = ["systemctl", "try-restart", "modelfaucet-command@8081", "modelfaucet-command@8082", "modelfaucet-gateway@8085", "modelfaucet-gateway@8086"] }
}

template {
  contents    = "{{ with secret \"database/static-creds/ledger_projector\" }}postgres://ledger_projector:{{ .Data.password }}@postgres.internal:5432/modelfaucet{{ end }}"
  destination = "/etc/modelfaucet/secrets/database_url_projector"
  perms       = "0400"
  exec { command = ["systemctl", "try-restart", "modelfaucet-projector"] }
}

template {
  contents    = "{{ with secret \"database/static-creds/ledger_query\" }}postgres://ledger_query:{{ .Data.password }}@postgres.internal:5432/modelfaucet{{ end }}"
  destination = "/etc/modelfaucet/secrets/database_url_query"
  perms       = "0400"
  exec { command = ["systemctl", "try-restart", "modelfaucet-query"] }
}
