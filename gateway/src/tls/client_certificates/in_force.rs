//! Which of all revocation lists count? Of each CA and scope the newest, whatever file it is in: a verifier
//! asks the first list that speaks of a certificate, and no other.

use rustls_pki_types::CertificateRevocationListDer;

use super::revocation_list::{List, ListFile};

/// The lists that count, and words about those that do not.
pub(super) struct InForce<'a> {
    lists: Vec<(&'a ListFile, &'a List)>,
    /// In words that follow "the revocation list".
    pub(super) superseded: Vec<String>,
}

impl<'a> InForce<'a> {
    pub(super) fn of(files: &'a [ListFile]) -> InForce<'a> {
        let mut found = InForce {
            lists: Vec::new(),
            superseded: Vec::new(),
        };
        for file in files {
            for list in file.lists() {
                found.add(file, list);
            }
        }
        found
    }

    /// The lists of one authority for its verifiers, each of which gets one list of a CA: with two
    /// partial ones (RFC 5280, 5.2.5) it would ask the first alone.
    pub(super) fn rounds(
        &self,
        authority: usize,
    ) -> Vec<Vec<CertificateRevocationListDer<'static>>> {
        let mut rounds: Vec<Vec<&List>> = vec![Vec::new()];
        let its = |list: &&List| list.authorities.contains(&authority);
        for list in self.lists.iter().map(|(_, list)| *list).filter(its) {
            let free = |round: &&mut Vec<&List>| round.iter().all(|one| one.issuer != list.issuer);
            match rounds.iter_mut().find(free) {
                Some(round) => round.push(list),
                None => rounds.push(vec![list]),
            }
        }
        let ders = |round: Vec<&List>| round.iter().map(|list| list.der.clone()).collect();
        rounds.into_iter().map(ders).collect()
    }

    fn add(&mut self, file: &'a ListFile, list: &'a List) {
        let same_scope = |(_, one): &&mut (&ListFile, &List)| one.is_of_the_scope_of(list);
        let Some(kept) = self.lists.iter_mut().find(same_scope) else {
            self.lists.push((file, list));
            return;
        };
        let (counts, other) = match list.is_newer_than(kept.1) {
            true => (file, std::mem::replace(kept, (file, list))),
            false => (kept.0, (file, list)),
        };
        let (path, better) = (other.0.path().display(), counts.path().display());
        self.superseded.push(match other.1.der == kept.1.der {
            true => format!("{path} holds the same list as {better}, and perhaps not the one that belongs there"),
            false => format!("{path} holds a list that is not the newest of its CA: the one in {better} counts alone; remove the older one"),
        });
    }
}
