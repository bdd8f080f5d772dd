//! What the way does to the bits of explicit congestion notification (ECN, RFC 3168).

use serde::{Deserialize, Deserializer};

use crate::link::decision::Decision;
use crate::link::rewrite::{Ecn, asks_for_ecn, ecn_of, set_ecn};

/// What a router or a firewall on the way does to the bits of ECN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EcnHandling {
    /// Marks packets whose transport is capable of it once the queue is half full. What finds no room is still dropped.
    Mark,
    /// Clears them: neither end learns of a mark.
    Bleach,
    /// Drops each SYN that asks for it, as old firewalls do.
    DropEctSyn,
}

impl EcnHandling {
    /// A value of a scenario: a name, or `none`.
    pub(crate) fn or_none<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<Self>>, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum OrNone {
            Mark,
            Bleach,
            DropEctSyn,
            None,
        }
        Ok(Some(match OrNone::deserialize(deserializer)? {
            OrNone::Mark => Some(Self::Mark),
            OrNone::Bleach => Some(Self::Bleach),
            OrNone::DropEctSyn => Some(Self::DropEctSyn),
            OrNone::None => None,
        }))
    }

    /// Changes a frame that the link carries, or refuses it. `is_crowded`: the queue is half full.
    pub(crate) fn apply(self, frame: &mut [u8], is_crowded: bool) -> Decision {
        let ecn = ecn_of(frame);
        match self {
            Self::DropEctSyn if asks_for_ecn(frame) => Decision::EctSyn,
            Self::Mark if is_crowded && matches!(ecn, Some(Ecn::Capable0 | Ecn::Capable1)) => {
                set_ecn(frame, Ecn::Experienced);
                Decision::Marked
            }
            Self::Bleach if ecn.is_some_and(|ecn| ecn != Ecn::NotCapable) => {
                set_ecn(frame, Ecn::NotCapable);
                Decision::Bleached
            }
            _ => Decision::Pass,
        }
    }
}
