//! The head of a log as a note to keep elsewhere: the text form of C2SP tlog-checkpoint, signed as a C2SP signed-note. The hash is
//! the link of the chain, not the root of a tree: it covers everything before it, but proves no single event without the rest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::Head;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

/// The name of the key in signatures.
const NAME: &str = "modelfaucet";
/// What an Ed25519 key begins with in the format.
const ED25519_KEY: u8 = 1;

/// Whose head, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// The log.
    pub(crate) log_id: LogId,
    /// Its shard.
    pub(crate) shard: ShardId,
    /// Its head.
    pub(crate) head: Head,
}

/// Why a note is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoteError {
    /// Another text.
    #[error("is not the head of a log as `modelfaucet log head` prints it")]
    Text,
    /// A key in another form.
    #[error("is not a key as `modelfaucet log key` prints it")]
    Key,
    /// Nobody whom we trust vouches for it.
    #[error("is not signed by this key")]
    Unsigned,
}

impl Note {
    /// The text that is signed.
    pub(crate) fn text(&self) -> String {
        let hash = STANDARD.encode(self.head.hash.0);
        format!("modelfaucet/{}/{}\n{}\n{hash}\n", self.log_id, self.shard, self.head.position)
    }

    /// Reads the text; signatures are looked at by [`Verifier::check`].
    ///
    /// # Errors
    /// [`NoteError::Text`].
    pub(crate) fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.lines();
        let mut next = || lines.next().ok_or(NoteError::Text);
        let (origin, position, hash) = (next()?, next()?, next()?);
        let wrong = |()| NoteError::Text;
        let (log, shard) =
            origin.strip_prefix("modelfaucet/").and_then(|rest| rest.split_once("/s")).ok_or(wrong(()))?;
        let hash = STANDARD.decode(hash).ok().and_then(|bytes| ChainHash::from_slice(&bytes)).ok_or(wrong(()))?;
        let note = Self {
            log_id: log.parse().map_err(|_| wrong(()))?,
            shard: ShardId(shard.parse().map_err(|_| wrong(()))?),
            head: Head { position: Position(position.parse().map_err(|_| wrong(()))?), hash },
        };
        if text.starts_with(&note.text()) { Ok(note) } else { Err(NoteError::Text) }
    }
}

/// Signs notes.
pub(crate) struct Signer(Ed25519KeyPair);

impl Signer {
    /// The key follows from the secret; the same secret is always the same key.
    ///
    /// # Errors
    /// None that can happen; the library's signature has one.
    pub(crate) fn new(secret: &SecretString) -> Result<Self, NoteError> {
        let mut seed = Sha256::new();
        seed.update(b"modelfaucet.log.sign.v1");
        seed.update(secret.expose_secret().as_bytes());
        Ed25519KeyPair::from_seed_unchecked(&seed.finalize()).map(Self).map_err(|_| NoteError::Key)
    }

    /// The key that others check with.
    pub(crate) fn verifier(&self) -> String {
        let key = self.public();
        let hash = u32::from_be_bytes(key_hash(&key));
        format!("{NAME}+{hash:08x}+{}", STANDARD.encode(key))
    }

    fn public(&self) -> Vec<u8> {
        [&[ED25519_KEY], self.0.public_key().as_ref()].concat()
    }

    /// The note with its signature.
    pub(crate) fn sign(&self, note: &Note) -> String {
        let text = note.text();
        let signature = self.0.sign(text.as_bytes());
        let signed = STANDARD.encode([key_hash(&self.public()).as_slice(), signature.as_ref()].concat());
        format!("{text}\n\u{2014} {NAME} {signed}\n")
    }
}

/// Checks notes with a key that somebody keeps.
#[derive(Clone, Debug)]
pub(crate) struct Verifier(Vec<u8>);

impl std::str::FromStr for Verifier {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let key = text.trim().rsplit('+').next().and_then(|key| STANDARD.decode(key).ok());
        let key = key.filter(|key| key.len() == 33 && key[0] == ED25519_KEY).ok_or(NoteError::Key)?;
        let hash = u32::from_be_bytes(key_hash(&key));
        if text.trim() == format!("{NAME}+{hash:08x}+{}", STANDARD.encode(&key)) {
            Ok(Self(key))
        } else {
            Err(NoteError::Key)
        }
    }
}

impl Verifier {
    /// The note, if this key has signed it.
    ///
    /// # Errors
    /// [`NoteError`].
    pub(crate) fn check(&self, text: &str) -> Result<Note, NoteError> {
        let note = Note::parse(text)?;
        let prefix = format!("\u{2014} {NAME} ");
        let signatures = text.lines().filter_map(|line| STANDARD.decode(line.strip_prefix(&prefix)?).ok());
        let hash = key_hash(&self.0);
        let key = UnparsedPublicKey::new(&ED25519, &self.0[1..]);
        let mut ours = signatures.filter(|bytes| bytes.len() == 68 && bytes[..4] == hash);
        if ours.any(|bytes| key.verify(note.text().as_bytes(), &bytes[4..]).is_ok()) {
            Ok(note)
        } else {
            Err(NoteError::Unsigned)
        }
    }
}

/// The first bytes of SHA-256 over name and key, as the format says.
fn key_hash(key: &[u8]) -> [u8; 4] {
    let mut digest = Sha256::new();
    digest.update(NAME.as_bytes());
    digest.update(b"\n");
    digest.update(key);
    let digest = digest.finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_believed_only_as_it_was_signed() {
        let signer = Signer::new(&"a secret of at least 32 characters, always the same".into()).unwrap();
        let head = Head { position: Position(1_234), hash: ChainHash([7; 32]) };
        let note = Note { log_id: LogId::generate(), shard: ShardId(7), head };
        let text = signer.sign(&note);
        let verifier: Verifier = signer.verifier().parse().unwrap();
        assert_eq!(verifier.check(&text), Ok(note));
        assert_eq!(Note::parse(&note.text()), Ok(note), "an unsigned one is a note too");
        assert_eq!(verifier.check(&note.text()), Err(NoteError::Unsigned));
        assert_eq!(verifier.check(&text.replace("1234", "1235")), Err(NoteError::Unsigned));
        let other = Signer::new(&"another secret of at least 32 characters, too".into()).unwrap();
        assert_eq!(verifier.check(&other.sign(&note)), Err(NoteError::Unsigned));
        for wrong in ["", "modelfaucet/x/s00\n1\nAAAA\n", "elsewhere\n1\nAAAA\n"] {
            assert_eq!(Note::parse(wrong), Err(NoteError::Text), "{wrong:?}");
        }
        for wrong in ["", "modelfaucet+00000000+AAAA", &signer.verifier().replace("modelfaucet+", "other+")] {
            assert_eq!(wrong.parse::<Verifier>().err(), Some(NoteError::Key), "{wrong:?}");
        }
    }
}
