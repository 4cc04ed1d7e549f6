//! Files with secrets that others can read: closed at the start, with a warning.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::*;

// N3
#[tokio::test]
async fn a_start_closes_files_with_secrets_and_says_which() {
    let dir = Setup::new().start().await.stop().await;
    let data = dir.path().join("data");
    for name in ["secret.key", "accounts.db", "messages.db", "first-account"] {
        fs::set_permissions(data.join(name), Permissions::from_mode(0o644)).expect("changed");
    }
    let gateway = Setup::new().start_in(dir).await;
    for name in ["secret.key", "accounts.db", "messages.db", "first-account"] {
        let path = data.join(name);
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        logged(&gateway, &format!("path={}", path.display())).await;
    }
    let warnings = gateway.process.log().lines();
    let warnings = warnings
        .iter()
        .filter(|line| line.contains("could read this file"));
    assert_eq!(warnings.count(), 4);
}
